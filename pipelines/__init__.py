"""Training pipelines: archive → point-in-time join → train → measure → publish, one module each."""
