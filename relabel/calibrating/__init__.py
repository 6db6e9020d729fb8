"""`relabel calibrate`: from verdicts and human labels to a calibration. Needs the extra `calibrate`.

pilot run or verdict table + human labels -> pairs -> a model, cross-validated by query -> frontier -> calibration.json
"""
