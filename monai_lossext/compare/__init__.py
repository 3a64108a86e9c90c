"""Train one bundle under several losses and report which differences between them the data show.

The order of the modules: plan, check -> run -> statistics -> results -> conclusions, figures -> report, terminal.
"""
