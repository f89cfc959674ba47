"""An HTTP service that predicts rows with the models of a run.

`address.py` decides where it listens. The other parts are in the order in which a request passes through them:
`server.py` receives it, `bodies.py` turns its body into rows, `batches.py` joins it with others, and `service.py`
encodes the rows and predicts them. `openapi.py` describes all of this to clients. The HTTP library is known to
`server.py`, `address.py` and `bodies.py` alone, and the terminal is their only user: nothing else may import from here,
and no part of training or of the conversion belongs here.
"""
