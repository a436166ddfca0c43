// What the copy engine is told of an attn_mask whose rows it takes in groups.
#include <gtest/gtest.h>

#include "src/cuda/sm90/attention_forward/launch.h"

namespace bsk::sm90::attention_forward {
namespace {

AttentionProblem masked(DataType dtype, std::array<int64_t, 4> shape,
                        std::array<int64_t, 4> stride) {
  AttentionProblem problem =
      dense_problem(DataType::kFloat16, 3, 2, 2, shape[2] == 1 ? 50 : shape[2], shape[3], 64, 64);
  problem.mask_kind = dtype == DataType::kBool ? MaskKind::kBool : MaskKind::kAdditive;
  problem.mask = contiguous(dtype, shape);
  problem.mask.stride = stride;
  return problem;
}

struct Maps {
  tile::MaskRows rows;
  TensorMapSpecs specs;
};
Maps maps_of(const AttentionProblem& problem) {
  const ConfigChoice choice = choose_config(problem, 132);
  return {make_params(problem, {}, choice, {}).mask_rows, tensor_map_specs(problem, choice)};
}

// Both maps end with the mask's last element at the latest, and every row lies where it is read.
void expect_exact(const AttentionProblem& problem) {
  const TensorLayout& mask = problem.mask;
  const Maps maps = maps_of(problem);
  ASSERT_EQ(maps.specs.size(), 5u);
  int64_t last = mask.shape[3] - 1;
  for (int i = 0; i < 3; ++i) last += (mask.shape[i] - 1) * mask.stride[i];
  for (const size_t i : {3, 4}) {
    const cuda::TensorMapSpec& spec = maps.specs[i];
    EXPECT_EQ(cuda::tensor_map_problem(spec, reinterpret_cast<void*>(256)), "");
    EXPECT_LE(spec.dims[0] - 1 + (spec.dims[1] - 1) * spec.strides[1], last);
  }
  const int64_t group = 16 / bytes_per_element(mask.dtype);
  for (int64_t b = 0; b < mask.shape[0]; ++b)
    for (int64_t h = 0; h < mask.shape[1]; ++h)
      for (int64_t i = 0; i < mask.shape[2]; ++i) {
        const int64_t row = b * maps.rows.batch_rows + h * maps.rows.head_rows + i;
        const cuda::TensorMapSpec& spec = maps.specs[row % group < maps.rows.rest ? 3 : 4];
        const int64_t column = row % group * maps.rows.stride;
        ASSERT_EQ(row / group * spec.strides[1] + column,
                  b * mask.stride[0] + h * mask.stride[1] + i * mask.stride[2]);
        ASSERT_LT(row / group, spec.dims[1]);
        ASSERT_LE(column + mask.shape[3], spec.dims[0]);
      }
}

TEST(MaskGroups, MapsEndWithTheMask) {
  for (const DataType dtype : {DataType::kBool, DataType::kFloat16, DataType::kFloat32}) {
    for (const int64_t rows : {2, 3, 8, 16, 67}) {
      for (const int64_t row : {67, 69}) {
        expect_exact(masked(dtype, {1, 1, rows, 67}, {0, 0, row, 1}));
        expect_exact(masked(dtype, {3, 2, rows, 67}, {2 * rows * row, rows * row, row, 1}));
        expect_exact(masked(dtype, {3, 1, rows, 67}, {(rows + 2) * row, 0, row, 1}));
        expect_exact(masked(dtype, {3, 2, rows, 67}, {0, (rows + 1) * row, row, 1}));
      }
    }
  }
  // One row for all queries.
  expect_exact(masked(DataType::kFloat16, {3, 1, 1, 67}, {67, 67, 67, 1}));
  expect_exact(masked(DataType::kFloat16, {3, 2, 1, 67}, {134, 67, 0, 1}));
}

// Then its elements are read one by one.
TEST(MaskGroups, AreNotMadeOfWhatDoesNotLieInRowsOneBehindTheOther) {
  const std::array<int64_t, 4> shape = {3, 2, 50, 67};
  for (const auto& stride : std::vector<std::array<int64_t, 4>>{
           {6700, 67, 134, 1},   // [batch, q_len, heads, kv_len] transposed
           {6701, 3350, 67, 1},  // batch entries that begin inside a row
           {0, 0, 1, 1},         // rows that overlap
           {6700, 3350, 1, 50},  // rows side by side
           {6700, 3350, 67, 0},  // one column
       }) {
    const Maps maps = maps_of(masked(DataType::kFloat16, shape, stride));
    EXPECT_EQ(maps.rows.stride, 0);
    EXPECT_EQ(maps.specs.size(), 3u);
  }
  AttentionProblem problem = masked(DataType::kFloat16, shape, {6700, 3350, 67, 1});
  problem.mask.address_alignment = 8;
  EXPECT_EQ(maps_of(problem).specs.size(), 3u);
  // Farther than a coordinate reaches.
  EXPECT_EQ(maps_of(masked(DataType::kFloat16, shape,
                           {int64_t{100} << 28, int64_t{50} << 28, (1 << 28) + 1, 1}))
                .specs.size(),
            3u);
}

}  // namespace
}  // namespace bsk::sm90::attention_forward
