"""What a search has found so far, in a file of one JSON object a line, so that it can go on."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from densecrf_gpu.params import CRFParams

from .scores import Scores


class Journal:
    """The trials of a search, in memory and, given a path, on disk.

    The first line says of which data and settings; a search of others is refused. A last line that
    an interruption cut off is dropped.

    Args:
        path: created if it is not there; None keeps trials in memory alone.
        about: data and settings, ready for JSON.

    Raises:
        ValueError: the file is of another search, or is not a journal.
    """

    def __init__(self, path: Path | None, about: dict[str, Any]) -> None:
        self._path = path
        self._trials: dict[CRFParams, Scores] = {}
        if path is None:
            return
        lines = self._whole_lines(path)
        if not lines:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(about) + "\n")
            return
        self._check(lines[0], about)
        for line in lines[1:]:
            entry = json.loads(line)
            scores = entry["scores"]
            iou = tuple(float("nan") if value is None else value for value in scores["iou"])
            self._trials[CRFParams.from_dict(entry["params"])] = Scores(
                scores["miou"], scores["accuracy"], iou
            )

    def __len__(self) -> int:
        return len(self._trials)

    def find(self, params: CRFParams) -> Scores | None:
        """Returns the scores of parameters that were tried before, else None."""
        return self._trials.get(params)

    def add(self, params: CRFParams, scores: Scores) -> None:
        """Keeps a trial; it is on disk when this returns."""
        self._trials[params] = scores
        if self._path is None:
            return
        iou = [None if value != value else value for value in scores.iou]  # JSON has no NaN
        entry = {"params": asdict(params), "scores": {**asdict(scores), "iou": iou}}
        with self._path.open("a") as file:
            file.write(json.dumps(entry) + "\n")

    @staticmethod
    def _whole_lines(path: Path) -> list[str]:
        if not path.exists():
            return []
        text = path.read_text()
        whole = text[: text.rfind("\n") + 1]
        if whole != text:
            path.write_text(whole)
        return whole.splitlines()

    def _check(self, line: str, about: dict[str, Any]) -> None:
        try:
            found = json.loads(line)
        except json.JSONDecodeError:
            raise ValueError(f"{self._path} is not the journal of a search") from None
        wanted = json.loads(json.dumps(about))
        if found == wanted:
            return
        names = [
            name
            for name in wanted
            if not isinstance(found, dict) or found.get(name) != wanted[name]
        ]
        raise ValueError(
            f"{self._path} is the journal of a search with other {', '.join(names)}: "
            "name another file, or remove it"
        )
