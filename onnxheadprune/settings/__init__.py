"""Settings, declared once: options, keys of jobs, keywords and their documentation are derived from them."""
