"""The agents: their prompts, the shape of their answers, and the order in which they speak."""
