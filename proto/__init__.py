"""The language of both sockets and the machines that speak it.

Sans-IO: nothing here opens, reads or waits; nothing imports trio, a socket or a clock.  Needs only cbor2.
"""
