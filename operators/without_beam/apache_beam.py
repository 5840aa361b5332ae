"""Stands in front of Apache Beam on the path of the JVM's interpreter, and says that it is not there.

PyFlink asks for Beam at import, only to see whether its process mode would be fast, and does without it where it is missing.
Thread mode needs none of it, and the import costs 4 s and 150 MB, in the launcher and again in the JVM.
"""

raise ImportError("Apache Beam is kept out of the embedded job; PyFlink's thread mode needs none of it")
