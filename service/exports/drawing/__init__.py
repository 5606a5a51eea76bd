"""Pictures as SVG text, in plain Python: the network with its blocks, and lines over time. Values in, text out.

Nothing here carries colours: classes do, and ``service/web/static/css/drawing.css`` gives them their looks.
"""
