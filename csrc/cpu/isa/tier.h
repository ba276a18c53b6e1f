// What one instruction-set tier offers; cpu/backend.cpp chooses between tiers.
#pragma once

#include "../../portable.h"
#include "../backend.h"

namespace densecrf::inline DENSECRF_ISA {

void build_lattice(Scalar, const cpu::FeatureSource&, const KeyView&, const cpu::Executor&,
                   void* point_section, const cpu::Allocator&);
void filter(Scalar, const cpu::FilterArguments&, const cpu::Executor&);
bool feature_gradient(Scalar, const cpu::FeatureGradientArguments&, const cpu::Executor&);
// weight_gradient [groups, d + 1, 16], of the barycentric weights.
bool simplex_gradient(Scalar, const cpu::FeatureGradientArguments&, const void* weight_gradient,
                      const cpu::Executor&);
void mean_field(Scalar, const cpu::MeanFieldArguments&, const cpu::Executor&);
void mean_field_gradient(Scalar, const cpu::MeanFieldGradientArguments&, const cpu::Executor&);
const cpu::Backend& backend_of_tier();

}  // namespace densecrf::inline DENSECRF_ISA
