// Declares the operators and makes the shared object an importable module.
#include <Python.h>
#include <torch/csrc/stable/library.h>

// Importing the module runs the static initialisers below; it has no contents.
PyMODINIT_FUNC PyInit__C() {
  static PyModuleDef definition = {
      PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr};
  return PyModule_Create(&definition);
}

STABLE_TORCH_LIBRARY(densecrf_gpu, m) {
  // features [B, N, d] -> two opaque uint8 tensors, points with batch axis. CUDA alone looks at
  // grid, the raster [W], [H, W] or [D, H, W] of the N points, and at max_vertices, the most
  // vertices an image may have; -1: as many as there are, which makes the host wait.
  m.def(
      "build_lattice(Tensor features, int[] grid=[], int? max_vertices=None) "
      "-> (Tensor points, Tensor vertices)");
  // image [B, channels, *size], or none for positions alone; size in array order, spatial_sigmas
  // x first
  m.def(
      "build_image_lattice(Tensor? image, int[] size, float[] spatial_sigmas, "
      "float[] channel_sigmas, int? max_vertices=None) -> (Tensor points, Tensor vertices)");
  // -> int64 [B]
  m.def("lattice_sizes(Tensor vertices) -> Tensor");
  // values [B, N, C] -> [B, N, C]; features [B, N, d] are there for their gradient alone
  m.def(
      "lattice_filter(Tensor points, Tensor vertices, Tensor values, str normalization, "
      "bool adjoint, Tensor? features=None) -> Tensor");
  // features [B, N, d], values and grad [B, N, C] -> [B, N, d]
  m.def(
      "lattice_filter_grad_features(Tensor points, Tensor vertices, Tensor features, "
      "Tensor values, Tensor grad, str normalization, bool adjoint) -> Tensor");
  // logits [B, C, N] -> [B, C, N], or int64 [B, N] for labels
  m.def(
      "mean_field(Tensor logits, Tensor[] points, Tensor[] vertices, Tensor[] compatibilities, "
      "str[] normalizations, int iterations, float damping, float tolerance, str output) "
      "-> Tensor");
  // The same, with what backward needs: Q before every iteration, in a layout of the backend's own.
  // compatibilities: one per kernel, or one per iteration and kernel.
  m.def(
      "mean_field_train(Tensor logits, Tensor[] points, Tensor[] vertices, "
      "Tensor[] compatibilities, str[] normalizations, int iterations, float damping, str output) "
      "-> (Tensor result, Tensor states)");
  m.def(
      "mean_field_backward(Tensor grad, Tensor logits, Tensor result, Tensor states, "
      "Tensor[] points, Tensor[] vertices, Tensor[] compatibilities, str[] normalizations, "
      "float damping, str output) -> (Tensor grad_logits, Tensor[] grad_compatibilities)");
  m.def("cpu_isa() -> str");
  // The bytes of work memory kept between calls, and their bound.
  m.def("workspace_bytes() -> int");
  m.def("clear_workspaces() -> ()");
  m.def("set_workspace_limit(int bytes) -> ()");
}
