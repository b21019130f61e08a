"""A small web page for enrolling and recognising faces, served by the client process.

The browser shows it and nothing more: photos are decoded, aligned and encrypted here, scores are
decrypted here, and the secret key stays in this process. `python -m runtime page` starts it.
"""
