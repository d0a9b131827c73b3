"""Run an inference server for a carried model, or print what would run it.

model_files   which server can serve a repo, and with which of its files
servers       the servers: llama.cpp and vLLM, their images, arguments and variables
serve_plan    what was asked for, and what will run
compose, kubernetes, kserve   the plan for other tools to run
find_model    read the files of a model from its image or from a hub
run_server    run the plan in the Docker Engine, list and stop servers
"""
