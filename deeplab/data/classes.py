"""The classes of the public data sets: names, colours, and the values in their label images."""

from __future__ import annotations

from .labels import IGNORE, Color


def _names(text: str) -> list[str]:
    return text.split(", ")


VOC = _names(
    "background, aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow, diningtable, "
    "dog, horse, motorbike, person, pottedplant, sheep, sofa, train, tvmonitor"
)
VOC_VOID: Color = (224, 224, 192)


def voc_palette(count: int) -> list[Color]:
    """The colours of PASCAL VOC's devkit: the bits of a number, dealt out to R, G and B."""
    palette: list[Color] = []
    for number in range(count):
        channels = [0, 0, 0]
        for bit in range(8):
            for channel in range(3):
                channels[channel] |= (number >> (3 * bit + channel) & 1) << (7 - bit)
        palette.append((channels[0], channels[1], channels[2]))
    return palette


# SegNet's eleven classes; the value 11 is void.
CAMVID: dict[str, Color] = {
    "sky": (128, 128, 128),
    "building": (128, 0, 0),
    "pole": (192, 192, 128),
    "road": (128, 64, 128),
    "pavement": (60, 40, 222),
    "tree": (128, 128, 0),
    "sign": (192, 128, 128),
    "fence": (64, 64, 128),
    "car": (64, 0, 128),
    "pedestrian": (64, 64, 0),
    "bicyclist": (0, 128, 192),
}
CAMVID_VALUES = {**{label: label for label in range(11)}, 11: IGNORE, IGNORE: IGNORE}

# The nineteen evaluated classes: the value in *_labelIds.png, and the colour.
CITYSCAPES: dict[str, tuple[int, Color]] = {
    "road": (7, (128, 64, 128)),
    "sidewalk": (8, (244, 35, 232)),
    "building": (11, (70, 70, 70)),
    "wall": (12, (102, 102, 156)),
    "fence": (13, (190, 153, 153)),
    "pole": (17, (153, 153, 153)),
    "traffic light": (19, (250, 170, 30)),
    "traffic sign": (20, (220, 220, 0)),
    "vegetation": (21, (107, 142, 35)),
    "terrain": (22, (152, 251, 152)),
    "sky": (23, (70, 130, 180)),
    "person": (24, (220, 20, 60)),
    "rider": (25, (255, 0, 0)),
    "car": (26, (0, 0, 142)),
    "truck": (27, (0, 0, 70)),
    "bus": (28, (0, 60, 100)),
    "train": (31, (0, 80, 100)),
    "motorcycle": (32, (0, 0, 230)),
    "bicycle": (33, (119, 11, 32)),
}
# 0 ... 33 are all ids of *_labelIds.png but the licence plate's, -1, which is stored as 255.
CITYSCAPES_ID_VALUES = {
    **dict.fromkeys((*range(34), 255), IGNORE),
    **{value: label for label, (value, _) in enumerate(CITYSCAPES.values())},
}
CITYSCAPES_TRAIN_ID_VALUES = {**{label: label for label in range(19)}, IGNORE: IGNORE}

_COCO_THINGS = _names(
    "person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, "
    "fire hydrant, stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, "
    "bear, zebra, giraffe, backpack, umbrella, handbag, tie, suitcase, frisbee, skis, snowboard, "
    "sports ball, kite, baseball bat, baseball glove, skateboard, surfboard, tennis racket, "
    "bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, "
    "carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, "
    "tv, laptop, mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, "
    "refrigerator, book, clock, vase, scissors, teddy bear, hair drier, toothbrush"
)
_COCO_STUFF = _names(
    "banner, blanket, branch, bridge, building-other, bush, cabinet, cage, cardboard, carpet, "
    "ceiling-other, ceiling-tile, cloth, clothes, clouds, counter, cupboard, curtain, desk-stuff, "
    "dirt, door-stuff, fence, floor-marble, floor-other, floor-stone, floor-tile, floor-wood, "
    "flower, fog, food-other, fruit, furniture-other, grass, gravel, ground-other, hill, house, "
    "leaves, light, mat, metal, mirror-stuff, moss, mountain, mud, napkin, net, paper, pavement, "
    "pillow, plant-other, plastic, platform, playingfield, railing, railroad, river, road, rock, "
    "roof, rug, salad, sand, sea, shelf, sky-other, skyscraper, snow, solid-other, stairs, stone, "
    "straw, structural-other, table, tent, textile-other, towel, tree, vegetable, wall-brick, "
    "wall-concrete, wall-other, wall-panel, wall-stone, wall-tile, wall-wood, water-other, "
    "waterdrops, window-blind, window-other, wood"
)
# Values of the pixel maps, COCO's category id less one, that no category of the release has.
_COCO_UNUSED = (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)

COCO_STUFF = [*_COCO_THINGS, *_COCO_STUFF]
_COCO_USED = [value for value in range(182) if value not in _COCO_UNUSED]
COCO_STUFF_VALUES = {
    **{value: label for label, value in enumerate(_COCO_USED)},
    IGNORE: IGNORE,
}
# All 182 numbers as they are, as networks trained without renumbering them want it.
COCO_STUFF_182 = [
    COCO_STUFF[COCO_STUFF_VALUES[value]] if value in COCO_STUFF_VALUES else f"unused {value}"
    for value in range(182)
]
COCO_STUFF_182_VALUES = {**{value: value for value in range(182)}, IGNORE: IGNORE}
