from blackwell_sparsek import attention_forward


class Holder:
    # shared by all
    pass


class Other:
    def __init__(self):
        pass

    def run(self, q, k, v): return attention_forward(q, k, v)


RESULT = Other().run(Q, K, V) + attention_forward(Q, K, V)
