"""What the board's ssl does, over the interpreter's own TLS."""
import tls

CERT_NONE, CERT_REQUIRED = tls.CERT_NONE, tls.CERT_REQUIRED


def wrap_socket(stream, server_hostname=None, cert_reqs=CERT_NONE, cadata=None):
    context = tls.SSLContext(tls.PROTOCOL_TLS_CLIENT)
    context.verify_mode = cert_reqs
    if cadata:
        context.load_verify_locations(cadata)
    stream.real = context.wrap_socket(stream.real, server_hostname=server_hostname)
    return stream
