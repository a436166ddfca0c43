import asyncio
from blackwell_sparsek import attention_forward
from blackwell_sparsek.utils import validate_correctness


async def attend(mode):
    match mode:
        case "sum":
            return attention_forward(Q, K, V).sum()
        case _:
            pass
    async with asyncio.Lock():
        return attention_forward(Q, K, V)


def stream():
    try:
        yield attention_forward(Q, K, V)
    finally:
        pass


RESULT = asyncio.run(attend("all")) + next(stream())
assert (lambda t: validate_correctness(t, t)[0])(RESULT)
