"""The tab "Optimizer dynamics" of TensorBoard: tables read through its data provider, drawn in the browser.

`loader` is the entry point and imports next to nothing: every start of TensorBoard pays for it.
"""
