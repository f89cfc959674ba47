"""Jobs on clusters that are there: submitted over Ray's job API, or by kubectl as Kubernetes objects.

The commands import it.
Nothing here runs a job itself.
"""
