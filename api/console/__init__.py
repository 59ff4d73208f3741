"""The console: pages for a browser, below `/console` of the query service.

It holds no query and no rule: what a page shows, its callbacks ask of the service's own paths, in this process and with
the browser's key (client.py). So scopes, limits, audit and problems are the same for a browser as for curl.
"""
