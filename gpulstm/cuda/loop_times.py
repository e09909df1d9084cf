"""How long a time step of the loop takes, which the planner compares with schedules of one launch.

Lines fitted to times that were measured on one H200; pure arithmetic."""

CUBLAS_TERAFLOPS = {"tf32": 417, "float16": 772, "bfloat16": 806}  # where it was measured to do 51 in float32


def microseconds(backward: bool, products: float, dtype: str, pairs: int = 1) -> float:
    """A step of the loop: bound by the CPU that launches it, or by launches and the products' arithmetic.

    ``products`` are floating-point operations; ``pairs`` of a product and a kernel make a step.
    """
    return max(22.0 * pairs, on_the_gpu(backward, products, dtype, pairs))


def on_the_gpu(backward: bool, products: float, dtype: str, pairs: int = 1) -> float:
    """The same where the CPU has launched it in time."""
    launches, teraflops = (15.0, 60.0) if backward else (18.0, 45.0)
    teraflops *= CUBLAS_TERAFLOPS.get(dtype, 51) / 51
    return launches * pairs + products / (1e6 * teraflops)
