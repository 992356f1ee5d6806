"""Who is connected to whom, in the form the kernels read: networks side by side."""
