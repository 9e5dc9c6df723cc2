"""From videos to answers: the Classifier, timelines, accuracy, files of rows."""
