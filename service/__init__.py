"""The face of fusetune: command line now, HTTP later. Importing it never imports TVM."""
