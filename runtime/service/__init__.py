"""The roles over HTTP: a server that keeps evaluation keys and runs jobs, and its Python client.

    client                            server
    keygen  --PUT keys-------------->  one file per client and parameters
    encrypt --POST jobs------------->  a queue; one job at a time, in a process of its own
    decrypt <-GET jobs/ID/outputs----

Jobs of a plan that gives templates may also store them, or compare an image with those stored: an
encrypted gallery per client and plan.

folder    files of the server, and what makes them whole or absent
store     rows of clients, keys and jobs
templates rows of stored templates
plans     the plans on offer, and how large what belongs to them may be
uploads   from a request's body to a checked file
jobs      the worker
tasks     what a job's process does, by kind
app       the routes
client    for Python users
commands  serve, add-client, remove-client

What passes is what the roles keep on files (`runtime.bundle`): never a secret key, never a value
that is not encrypted.
"""
