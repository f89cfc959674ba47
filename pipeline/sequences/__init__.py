"""Sequences of token ids: read from lists or texts, or made of texts by the user's tokenizer, and put into arrays.

Others may import the classes of `tokenizer.py` and `form.py`, and the functions of `ids.py`. Where the texts come from
does not belong here.
"""
