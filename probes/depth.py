"""How far a needle may lie from the depth that was asked for."""

NEAR = 0.02  # depth
NEAR_TOKENS = 8  # in a short context, where .02 is less than a word


def depth_tolerance(n_context: int) -> float:
    """How far the depth of a needle may be from the nominal one; `n_context` tokens stand before the question, the
    insert not counted. What `place` keeps and `verify` demands."""
    return max(NEAR, NEAR_TOKENS / n_context)
