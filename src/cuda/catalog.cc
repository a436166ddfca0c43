#include "src/cuda/catalog.h"

#include "src/cuda/sm90/attention_forward/launch.h"
#include "src/cuda/sm90/attention_forward_small/launch.h"

namespace bsk::cuda {

std::vector<KernelRequest> documented_requests() {
  std::vector<KernelRequest> requests = sm90::attention_forward::documented_requests();
  for (KernelRequest& request : sm90::attention_forward_small::documented_requests()) {
    requests.push_back(std::move(request));
  }
  return requests;
}

}  // namespace bsk::cuda
