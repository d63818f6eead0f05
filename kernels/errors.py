"""What can go wrong with a kernel. Here and not beside the kernels, which cannot be imported without triton."""

from ..errors import HeadscopeError


class KernelError(HeadscopeError, RuntimeError):
    """The Triton kernels cannot be run here, or what they return is not what the definition says."""
