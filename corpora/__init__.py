"""Examples of speech with references, and the roles they play."""
