"""`llmstack hub`: carried images served as a Hugging Face Hub. The web packages that it needs are the extra `hub`.

server       sockets, TLS, signals, the web server
application  one request: who may ask, which handler answers, one line of log
addresses    what a path asks for
api, resolve, pages
shelf        what is there: values.Repo and values.Revision, refreshed again and again
opening, looking, reading    from images to those values, to files, to ranges of bytes
"""
