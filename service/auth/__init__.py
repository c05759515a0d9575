"""Who is who: users' and services' tokens, and API keys."""
