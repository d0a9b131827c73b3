"""`llmstack hub`: carried images served as a Hugging Face Hub. Its web packages are the extra `hub`.

server       socket, TLS and web server
supervisor   the processes of several workers (process_link, index_change)
application  one request: token, route, log line
routes       the table of routes, with urls for their paths; the handlers are in hub_api, file_route and pages
public_url   the URL that clients know, also behind proxies
repo_index   the repos as values (repos), refreshed by refresher
facts_index  what their files declare (repo_facts, tensor_headers, packed_weights); shown by repo_info, and
             selected by repo_lists
image_files  from an image to its revision, files and bytes
streaming    blocking reads in threads, streamed to clients
layout_files  files of an OCI layout that the kernel sends (file_sending)
"""
