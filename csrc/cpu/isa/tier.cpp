#include "tier.h"

namespace densecrf::inline DENSECRF_ISA {

const cpu::Backend& backend_of_tier() {
#define NAME_OF(isa) #isa
#define NAME(isa) NAME_OF(isa)
  static constexpr cpu::Backend kBackend{NAME(DENSECRF_ISA), build_lattice, filter,
                                         feature_gradient,   mean_field,    mean_field_gradient};
  return kBackend;
}

}  // namespace densecrf::inline DENSECRF_ISA
