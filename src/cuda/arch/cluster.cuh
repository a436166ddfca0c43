// Thread-block clusters: CTAs that run at the same time and read each other's shared memory.
#pragma once

#include "src/cuda/arch/core.cuh"

namespace bsk::arch {

// PTX ISA 10: %cluster_ctarank; 0 in a launch without clusters.
__device__ __forceinline__ int cluster_rank() {
  uint32_t rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return static_cast<int>(rank);
}

// PTX ISA 9.7.13: barrier.cluster.arrive.release + .wait.acquire by all threads of the cluster;
// every lane of a warp together.
__device__ __forceinline__ void sync_cluster() {
  asm volatile(
      "barrier.cluster.arrive.release.aligned;\n\t"
      "barrier.cluster.wait.acquire.aligned;" ::
          : "memory");
}

// The same without release and acquire: nobody goes on before all have come this far, and no more.
__device__ __forceinline__ void meet_cluster() {
  asm volatile(
      "barrier.cluster.arrive.relaxed.aligned;\n\t"
      "barrier.cluster.wait.aligned;" ::
          : "memory");
}

// PTX ISA 9.7.9: mapa.shared::cluster. Where CTA `rank` of the cluster has what this one has at
// `place`.
__device__ __forceinline__ uint32_t address_at_rank(const void* place, int rank) {
  uint32_t address;
  asm("mapa.shared::cluster.u32 %0, %1, %2;"
      : "=r"(address)
      : "r"(shared_address(place)), "r"(rank));
  return address;
}

// PTX ISA 9.7.9: ld.shared::cluster. 8 or 16 bytes from there, aligned so.
__device__ __forceinline__ void load_from_rank(float (&values)[2], const float* place, int rank) {
  asm volatile("ld.shared::cluster.v2.f32 {%0, %1}, [%2];"
               : "=f"(values[0]), "=f"(values[1])
               : "r"(address_at_rank(place, rank))
               : "memory");
}
__device__ __forceinline__ void load_from_rank(float (&values)[4], const float* place, int rank) {
  asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(values[0]), "=f"(values[1]), "=f"(values[2]), "=f"(values[3])
               : "r"(address_at_rank(place, rank))
               : "memory");
}

}  // namespace bsk::arch
