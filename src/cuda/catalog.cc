#include "src/cuda/catalog.h"

#include "src/cuda/sm90/attention_forward/launch.h"
#include "src/cuda/sm90/attention_forward_small/launch.h"
#include "src/cuda/sm90/attention_forward_split/launch.h"
#include "src/cuda/sm90/block_mask_build/launch.h"

namespace bsk::cuda {

std::vector<KernelRequest> documented_requests() {
  std::vector<KernelRequest> requests = sm90::attention_forward::documented_requests();
  const auto add = [&requests](std::vector<KernelRequest> more) {
    for (KernelRequest& request : more) requests.push_back(std::move(request));
  };
  add(sm90::attention_forward_small::documented_requests());
  add(sm90::attention_forward_split::documented_requests());
  add(sm90::block_mask_build::documented_requests());
  return requests;
}

}  // namespace bsk::cuda
