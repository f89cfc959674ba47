"""The formats whose arrays can be adopted, each explored by a class with the methods of `found.Source`: what there is,
and where the chunks of an array are. The rest of the folder imports `find.py`, which knows the kinds of sources, and
`found.py`. What becomes of the arrays that are found is decided outside.
"""
