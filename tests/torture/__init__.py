"""The torture client: what a service must not lose, asked by clients that never forgive.

    wire         requests and responses, without sockets
    ledger       every request once: what became of it, what the application did; the verdict
    connection   one connection: whatever happens to it is told to the ledger
    client       the kinds of clients, and a run of many of them (`python3 -m torture`)
    application  the WSGI application that counts what it executes
    moves        what is done to the service meanwhile, chosen by a seed
    selftest     a server that does wrong: what the client has to see

With the standard library only: it is pushed into a booted machine as it is. It never retries, and
opens another connection only after one that ended as it was allowed to, or was counted as a
failure.
"""
