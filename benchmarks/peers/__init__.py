"""The job of the history stage in other stream engines. These modules run in an environment of their own."""
