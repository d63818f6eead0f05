"""Row evidence in Triton, for GPUs of compute capability 8.0 and up, and AMD's gfx942 and gfx950.

Only ``launch.py`` is called from outside, and only when these kernels were chosen: everything here imports triton.
The files are not named into ``kernels/`` itself because there, importing ``row_evidence.py`` would replace the function
``headscope.kernels.row_evidence`` by the module.

Names in the kernels: ``i_`` index of a program or a loop, ``o_`` offsets, ``p_`` pointers, ``b_`` a block of values,
``s_`` strides; tensors have their plain name, with the shape in a comment where they enter.
"""
