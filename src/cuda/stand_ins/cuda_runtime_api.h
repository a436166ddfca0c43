// SPDX-License-Identifier: Apache-2.0
// Stands in for CUDA's header of this name, which CuTe's configuration includes for the host's
// sake: in device code it uses nothing of it, and CUDA's own may not travel with the kernels
// (THIRD_PARTY.md).
#pragma once
