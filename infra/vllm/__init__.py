"""vLLM as a local process: on the GPU if the `vllm` extra is installed, otherwise on the CPU."""
