"""`report.html`: what a build came to, in one file that loads nothing.

`blocks` are what can be drawn, each module of a section says what of it, `page` has the list of the sections.
"""
