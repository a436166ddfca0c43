#include "tests/cuda/emulated_block_mask.h"

#include "src/cuda/sm90/block_mask_build/kernel.cuh"

namespace bsk::test {
namespace {

using namespace sm90::block_mask_build;

void run(const Launch& launch, uint32_t seed, const std::function<void()>& entry) {
  emulation::machine().launch(
      static_cast<int>(launch.shape.grid[0]), static_cast<int>(launch.shape.threads),
      static_cast<int>(launch.shape.shared_bytes), {false, false, seed}, entry);
}

template <class SourceType>
void enter(const BuildParams<SourceType>& params) {
  constexpr bool kWholeCta = SourceType::kHasPartial;
  lists_of_blocks<RowConfig<SourceType, kWholeCta ? Threads::kThreads : 32>>(params);
}
void enter(const BuildParams<Lists>& params) { lists_of_marks<RowConfig<Lists, 32>>(params); }
void enter(const BuildParams<CompressedRows>& params) {
  lists_of_marks<RowConfig<CompressedRows, 32>>(params);
}
void enter(const BuildParams<VerticalSlash>& params) {
  lists_of_marks<RowConfig<VerticalSlash, 128>>(params);
}
void enter(const BuildParams<Scores>& params) {
  const bool top_k = params.source.selection == Selection::kTopK;
  if (params.out.kv_blocks <= 128) {
    top_k ? lists_of_scores<ScoresConfig<Selection::kTopK, 4>>(params)
          : lists_of_scores<ScoresConfig<Selection::kMass, 4>>(params);
  } else if (params.out.kv_blocks <= 512) {
    top_k ? lists_of_scores<ScoresConfig<Selection::kTopK, 16>>(params)
          : lists_of_scores<ScoresConfig<Selection::kMass, 16>>(params);
  } else {
    top_k ? lists_of_scores<ScoresConfig<Selection::kTopK, 64>>(params)
          : lists_of_scores<ScoresConfig<Selection::kMass, 32>>(params);
  }
}

}  // namespace

void build_emulated(const Output& out, const Source& source, uint32_t seed) {
  if (out.batch * out.heads * out.q_blocks == 0) return;
  std::visit(
      [&](const auto& s) {
        using SourceType = std::remove_cvref_t<decltype(s)>;
        if constexpr (std::is_same_v<SourceType, Ids>) {
          const IdRangesParams params = id_ranges_params(out, s);
          run(id_ranges_launch(out), seed, [&] { id_ranges<IdRangesConfig>(params); });
        }
        const BuildParams<SourceType> params{out, s};
        run(launch_of(out, source), seed, [&] { enter(params); });
      },
      source);
}

void pooled_scores_emulated(const PooledProductParams& params, uint32_t seed) {
  run(pool_launch(params.pool), seed, [&] { pool<PoolConfig>(params.pool); });
  run(pooled_product_launch(params), seed, [&] { pooled_product<PooledProductConfig>(params); });
}

}  // namespace bsk::test
