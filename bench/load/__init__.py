"""The load generator: a C program (see load.h), built where it is needed, and its Python side."""
