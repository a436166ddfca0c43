// Host side of the builders. See launch.h.
#include "src/cuda/sm90/block_mask_build/launch.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <string>

#include "bsk/error.h"
#include "src/cuda/host/driver.h"
#include "src/cuda/host/engine.h"

namespace bsk::sm90::block_mask_build {
namespace {

constexpr int64_t kLengthLimit = int64_t{1} << 28;
constexpr int kMaxBitmapBlocks = 1 << 16;  // 8 KB a row

// Blocks a lane may hold, so that registers suffice: rows of up to 2048 blocks, or 1024.
constexpr int kTopKItems[] = {4, 16, 64};
constexpr int kMassItems[] = {4, 16, 32};

const int (&score_items(Selection selection))[3] {
  return selection == Selection::kTopK ? kTopKItems : kMassItems;
}

int64_t rows_of(const Output& out) {
  return static_cast<int64_t>(out.batch) * out.heads * out.q_blocks;
}

// Which of them holds a row; 3 = none.
size_t score_variant(const Output& out, const Scores& source) {
  size_t variant = 0;
  for (const int items : score_items(source.selection)) {
    if (out.kv_blocks <= items * arch::kWarpThreads) break;
    ++variant;
  }
  return variant;
}

// What differs between the sources.
struct Traits {
  const char* type;
  const char* name;
  int threads_per_row;
  bool bitmap = false;
};
template <class SourceType>
constexpr Traits kTraits{};
template <>
constexpr Traits kTraits<Dense>{"Dense", "dense", 32};
template <>
constexpr Traits kTraits<Scores>{"Scores", "", 32};
template <>
constexpr Traits kTraits<Lists>{"Lists", "lists", 32, true};
template <>
constexpr Traits kTraits<Window>{"Window", "window", 128};
template <>
constexpr Traits kTraits<Strided>{"Strided", "strided", 32};
template <>
constexpr Traits kTraits<Segments>{"Segments", "segments", 128};
template <>
constexpr Traits kTraits<Ids>{"Ids", "ids", 128};
template <>
constexpr Traits kTraits<CompressedRows>{"CompressedRows", "compressed_rows", 32, true};
template <>
constexpr Traits kTraits<VerticalSlash>{"VerticalSlash", "vertical_slash", 128, true};

constexpr char kNamespace[] = "bsk::sm90::block_mask_build::";

cuda::KernelRequest request(const std::string& name, const char* entry, const std::string& config) {
  return {"sm90_block_mask_build_" + name, "src/cuda/sm90/block_mask_build/kernel.cuh",
          std::string(kNamespace) + entry, kNamespace + config, "90a"};
}

template <class SourceType>
cuda::KernelRequest request_of(const Output&, const SourceType&) {
  const Traits& traits = kTraits<SourceType>;
  return request(traits.name, traits.bitmap ? "lists_of_marks" : "lists_of_blocks",
                 std::string("RowConfig<") + kNamespace + traits.type + ", " +
                     std::to_string(traits.threads_per_row) + ">");
}

cuda::KernelRequest request_of(const Output& out, const Scores& source) {
  const bool top_k = source.selection == Selection::kTopK;
  const int items = score_items(source.selection)[std::min<size_t>(score_variant(out, source), 2)];
  return request(
      (top_k ? "top_k" : "mass") + std::to_string(items * arch::kWarpThreads), "lists_of_scores",
      std::string("ScoresConfig<") + kNamespace +
          (top_k ? "Selection::kTopK" : "Selection::kMass") + ", " + std::to_string(items) + ">");
}

template <class SourceType>
cuda::LaunchShape shape_of(const Output& out, const SourceType&) {
  constexpr int kRowsPerCta = Threads::kThreads / kTraits<SourceType>.threads_per_row;
  cuda::LaunchShape shape;
  shape.grid[0] = static_cast<uint32_t>((rows_of(out) + kRowsPerCta - 1) / kRowsPerCta);
  shape.threads = Threads::kThreads;
  if (kTraits<SourceType>.bitmap) {
    shape.shared_bytes = int64_t{kRowsPerCta} * bitmap_words(out.kv_blocks) * 4;
  }
  return shape;
}

// A kernel that could not be made ready is not tried again until the settings change.
struct Slot {
  cuda::DeviceKernel* kernel = nullptr;
  std::atomic<uint64_t> failed_at{0};
};

// The device's context must be current.
bool make_ready(Slot& slot, int32_t device, int64_t shared_bytes) {
  const uint64_t generation = cuda::engine_settings_generation();
  if (slot.failed_at.load(std::memory_order_relaxed) == generation) return false;
  try {
    slot.kernel->get(device, shared_bytes);
    return true;
  } catch (const Error& error) {
    // A build without kernel sources is one that was asked for; anything else the user should know.
    if (!cuda::engine_settings().kernel_dir.empty()) {
      cuda::add_engine_notice(std::string("Block masks are built by torch operations, at many "
                                          "launches each, since a kernel cannot be loaded. ") +
                              error.what());
    }
    slot.failed_at.store(generation, std::memory_order_relaxed);
    return false;
  }
}

// The kernel of a launch, by a table that is looked up by small numbers alone: building a mask
// takes as long on the host as on the device.
template <class MakeRequest>
Slot& slot_of(std::array<std::atomic<Slot*>, 4>& slots, size_t index, MakeRequest make) {
  Slot* found = slots[index].load(std::memory_order_acquire);
  if (found != nullptr) return *found;
  auto* const made = new Slot;  // never destroyed, as the kernels
  made->kernel = &cuda::device_kernel(make());
  if (slots[index].compare_exchange_strong(found, made, std::memory_order_acq_rel)) return *made;
  delete made;
  return *found;
}

size_t variant_of(const Output&, const auto&) { return 0; }
size_t variant_of(const Output& out, const Scores& source) { return score_variant(out, source); }

template <class SourceType>
Slot& slot_of_source(const Output& out, const SourceType& source) {
  static std::array<std::atomic<Slot*>, 4> slots[2];
  size_t set = 0;
  if constexpr (std::is_same_v<SourceType, Scores>) {
    set = static_cast<size_t>(source.selection);
  }
  return slot_of(slots[set], variant_of(out, source), [&] { return request_of(out, source); });
}

bool takes_lengths(const Output& out) {
  return out.q_len < kLengthLimit && out.kv_len < kLengthLimit;
}
bool takes_source(const Output&, const auto&) { return true; }
bool takes_source(const Output& out, const Scores& source) {
  return score_variant(out, source) < 3;
}
bool takes_source(const Output& out, const Lists&) { return out.kv_blocks <= kMaxBitmapBlocks; }
bool takes_source(const Output& out, const CompressedRows&) {
  return out.kv_blocks <= kMaxBitmapBlocks;
}
bool takes_source(const Output& out, const VerticalSlash&) {
  return out.kv_blocks <= kMaxBitmapBlocks;
}

}  // namespace

bool takes(const Output& out, const Source& source) {
  return rows_of(out) < int64_t{1} << 31 && takes_lengths(out) &&
         std::visit([&out](const auto& s) { return takes_source(out, s); }, source);
}

int64_t id_ranges(const Output& out) {
  return static_cast<int64_t>(out.batch) * (out.q_blocks + out.kv_blocks);
}

IdRangesParams id_ranges_params(const Output& out, const Ids& source) {
  return {source.ids,   source.ranges, out.batch,   out.q_len,
          out.q_blocks, out.kv_blocks, out.block_q, out.block_k};
}

Launch id_ranges_launch(const Output& out) {
  constexpr int kWarps = Threads::kThreads / arch::kWarpThreads;
  cuda::LaunchShape shape;
  shape.grid[0] = static_cast<uint32_t>((id_ranges(out) + kWarps - 1) / kWarps);
  shape.threads = Threads::kThreads;
  return {request("id_ranges", "id_ranges", "IdRangesConfig"), shape};
}

Launch launch_of(const Output& out, const Source& source) {
  return std::visit([&out](const auto& s) { return Launch{request_of(out, s), shape_of(out, s)}; },
                    source);
}

bool build(const Output& out, const Source& source, int32_t device, void* stream) {
  if (rows_of(out) == 0) return true;
  const cuda::ScopedDevice scoped(cuda::cuda_device(device));
  return std::visit(
      [&](const auto& s) {
        using SourceType = std::remove_cvref_t<decltype(s)>;
        const cuda::LaunchShape shape = shape_of(out, s);
        Slot& slot = slot_of_source(out, s);
        if (!make_ready(slot, device, shape.shared_bytes)) return false;
        if constexpr (std::is_same_v<SourceType, Ids>) {
          static std::array<std::atomic<Slot*>, 4> slots;
          Slot& ranges = slot_of(slots, 0, [&] { return id_ranges_launch(out).request; });
          if (!make_ready(ranges, device, 0)) return false;
          cuda::launch(*ranges.kernel, device, stream, id_ranges_launch(out).shape,
                       id_ranges_params(out, s));
        }
        cuda::launch(*slot.kernel, device, stream, shape, BuildParams<SourceType>{out, s});
        return true;
      },
      source);
}

bool takes_pool(const PoolParams& params) {
  const auto reads = [](const Tensor& tensor) {
    const bool element = tensor.type == Type::kFloat16 || tensor.type == Type::kBFloat16;
    return element && tensor.stride[3] == 1 && tensor.stride[0] % 8 == 0 &&
           tensor.stride[1] % 8 == 0 && tensor.stride[2] % 8 == 0 &&
           reinterpret_cast<uintptr_t>(tensor.data) % 16 == 0;
  };
  const int64_t blocks = int64_t{params.batch} * (int64_t{params.q_heads} * params.q_blocks +
                                                  int64_t{params.kv_heads} * params.kv_blocks);
  return reads(params.q) && reads(params.k) && params.head_dim % 8 == 0 && params.head_dim >= 8 &&
         params.head_dim <= 256 && params.q_len < kLengthLimit && params.kv_len < kLengthLimit &&
         blocks < int64_t{1} << 31;
}

Launch pool_launch(const PoolParams& params) {
  cuda::LaunchShape shape;
  shape.grid[0] = static_cast<uint32_t>(
      params.batch * (params.q_heads * params.q_blocks + params.kv_heads * params.kv_blocks));
  shape.threads = Threads::kThreads;
  shape.shared_bytes = kPoolSharedBytes;
  return {request("pool", "pool", "PoolConfig"), shape};
}

Launch pooled_product_launch(const PooledProductParams& params) {
  constexpr int kTile = PooledProductConfig::kTile;
  const PoolParams& pool = params.pool;
  const int64_t q_tiles = (pool.q_blocks + kTile - 1) / kTile;
  const int64_t kv_tiles = (pool.kv_blocks + kTile - 1) / kTile;
  cuda::LaunchShape shape;
  shape.grid[0] = static_cast<uint32_t>(pool.batch * params.heads * q_tiles * kv_tiles);
  shape.threads = Threads::kThreads;
  shape.shared_bytes = 2 * kTile * (kTile + 1) * 4;
  return {request("pooled_product", "pooled_product", "PooledProductConfig"), shape};
}

bool pooled_scores(const PooledProductParams& params, int32_t device, void* stream) {
  static std::array<std::atomic<Slot*>, 4> slots;
  const Launch pool = pool_launch(params.pool), product = pooled_product_launch(params);
  if (product.shape.grid[0] == 0) return true;
  const cuda::ScopedDevice scoped(cuda::cuda_device(device));
  Slot& pool_slot = slot_of(slots, 0, [&] { return pool.request; });
  Slot& product_slot = slot_of(slots, 1, [&] { return product.request; });
  if (!make_ready(pool_slot, device, pool.shape.shared_bytes) ||
      !make_ready(product_slot, device, product.shape.shared_bytes)) {
    return false;
  }
  cuda::launch(*pool_slot.kernel, device, stream, pool.shape, params.pool);
  cuda::launch(*product_slot.kernel, device, stream, product.shape, params);
  return true;
}

std::vector<cuda::KernelRequest> documented_requests() {
  std::vector<cuda::KernelRequest> requests = {
      id_ranges_launch({}).request, pool_launch({}).request, pooled_product_launch({}).request};
  for (const Source& source :
       {Source(Dense{}), Source(Lists{}), Source(Window{}), Source(Strided{}), Source(Segments{}),
        Source(Ids{}), Source(CompressedRows{}), Source(VerticalSlash{})}) {
    requests.push_back(launch_of({}, source).request);
  }
  for (const Selection selection : {Selection::kTopK, Selection::kMass}) {
    for (const int items : score_items(selection)) {
      Output out;
      out.kv_blocks = items * arch::kWarpThreads;
      Scores scores;
      scores.selection = selection;
      requests.push_back(launch_of(out, scores).request);
    }
  }
  return requests;
}

}  // namespace bsk::sm90::block_mask_build
