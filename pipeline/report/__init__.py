"""The report: a folder of web pages in which one sees and hears what the clusters of a run mean."""
