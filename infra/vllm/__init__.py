"""A real vLLM server on this machine: on its GPU where the `vllm` extra is installed, on its CPU elsewhere."""
