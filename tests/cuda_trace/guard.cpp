// A CUDA device guard that does nothing, so that a build of torch without CUDA can trace operations on fake CUDA tensors.
#include <c10/core/impl/DeviceGuardImplInterface.h>

namespace c10::impl {
C10_REGISTER_GUARD_IMPL(CUDA, NoOpDeviceGuardImpl<DeviceType::CUDA>)
}
