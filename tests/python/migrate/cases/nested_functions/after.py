def make_runner(times):
    from blackwell_sparsek import attention_forward

    def run(q, k, v):
        def inner():
            return attention_forward(q, k, v)

        return sum(inner() for _ in range(times))

    return run


RESULT = make_runner(2)(Q, K, V)
