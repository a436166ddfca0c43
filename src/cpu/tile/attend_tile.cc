// Attention for one tile of query rows: compiled once per instruction set, with BSK_CPU_ISA naming
// the function (attend_tile_avx512, ...). Everything but that function is internal to this file,
// and no header of the C++ library is included: see src/cpu/tile.h.
#include "src/cpu/tile.h"
#include "src/cpu/tile/few_rows.h"
#include "src/cpu/tile/lanes.h"
#include "src/cpu/tile/masks.h"
#include "src/cpu/tile/state.h"
#include "src/cpu/tile/steps.h"

namespace bsk::cpu {

void BSK_CPU_ISA(const Call& call, const Tile& tile, float* memory) {
  const Scratch scratch = split_scratch(call, memory);
  Rows rows;
  describe_rows(call, tile, &rows);
  const bool few = rows.count <= kMaxFewRows;
  (few ? pack_few : pack_lanes)(call, tile, rows, scratch);
  Softmax softmax;
  for (int r = 0; r < kTileRows; ++r) {
    softmax.largest[r] = -kInf;
    softmax.sum[r] = 0.0f;
  }
  const int out_rows = few ? rows.count : kTileRows;
  for (int64_t i = 0; i < out_rows * call.v_head_dim; ++i) scratch.out[i] = 0.0f;

  StepWalker walker(call, tile, rows.first_key_of_any, rows.end_key_of_any);
  Step step;
  Alive alive;
  StepKeys keys;
  while (walker.next(&step)) {
    find_alive(call, rows, walker, step, &alive);
    keys.additive = Additive::kNothing;
    if (alive.any != 0 && call.mask_kind == Mask::kAdditive) {
      keys.additive = load_additive(call, rows, step, &alive, scratch.scores, scratch.bias);
    }
    if (alive.any == 0) continue;
    gather_keys(call, tile, step, &alive, scratch, &keys);
    (few ? attend_few : attend_lanes)(call, keys, rows, scratch, &softmax);
  }
  (few ? write_few : write_lanes)(call, tile, rows, scratch, softmax);
  write_lse(call, tile, rows, softmax);
}

}  // namespace bsk::cpu
