"""Native libraries: a compiled model as a shared or static library with a C interface."""
