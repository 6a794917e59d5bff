"""The LLM agents: their prompts, the schemas of their answers, and the pipeline that runs them."""
