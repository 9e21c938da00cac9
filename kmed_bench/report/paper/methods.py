"""The methods paragraphs, in English and Korean: every number is the record's."""

from kmed_bench.core.language import Language
from kmed_bench.report.paper.wording import ROUNDING, Facts, Say, tell

DATA = (
    Say(
        "The speech was the generated demo corpus: synthetic voices that read prepared sentences, no patients.",
        "음성은 환자 음성이 아니라, 준비된 문장을 합성 음성으로 읽어 생성한 데모 말뭉치이다.",
        ("synthetic",),
    ),
    Say(
        "The speech was that of AI Hub data set 208 (비대면 진료를 위한 의료진 및 환자 음성).",
        "음성 데이터는 AI Hub의 「비대면 진료를 위한 의료진 및 환자 음성」(데이터셋 208)을 사용하였다.",
        ("aihub",),
    ),
    Say(
        "The speech was that of a corpus in the layout of AI Hub data set 208 (비대면 진료를 위한 의료진 및 환자 "
        "음성).",
        "음성 데이터는 AI Hub의 「비대면 진료를 위한 의료진 및 환자 음성」(데이터셋 208)과 같은 형식의 말뭉치이다.",
        ("aihub_layout",),
    ),
    Say("The speech was that of the corpus “{source}”.", "음성 데이터는 “{source}” 말뭉치이다."),
    Say("Speech of {roles} was used.", "화자 역할은 다음으로 한정하였다: {roles}."),
    Say(
        "Recordings of {min_duration_s} s to {max_duration_s} s were eligible.",
        "길이가 {min_duration_s}초 이상 {max_duration_s}초 이하인 녹음을 대상으로 하였다.",
    ),
    Say(
        "Of {corpus_labels} labelled utterances {corpus_usable} were usable and {rejected} were rejected.",
        "라벨이 있는 발화 {corpus_labels}개 중 {corpus_usable}개를 사용하고 {rejected}개를 제외하였다.",
    ),
    Say("Reasons for rejection: {rejected_because}.", "제외 사유별 개수: {rejected_because}."),
    Say(
        "The usable utterances had {corpus_speakers} speakers, {corpus_sentences} different sentences and "
        "{corpus_hours} hours.",
        "사용한 발화는 화자 {corpus_speakers}명, 서로 다른 문장 {corpus_sentences}개, 총 {corpus_hours}시간이다.",
    ),
)
SPLIT = (
    Say(
        "They were split into {train_utterances} utterances for training, {valid_utterances} for validation and "
        "{test_utterances} for testing.",
        "이를 학습 세트 {train_utterances}개, 검증 세트 {valid_utterances}개, 평가 세트 {test_utterances}개 발화로 "
        "분할하였다.",
    ),
    Say(
        "These are {train_hours}, {valid_hours} and {test_hours} hours of {train_speakers}, {valid_speakers} and "
        "{test_speakers} speakers.",
        "세트별 분량은 각각 {train_hours}시간, {valid_hours}시간, {test_hours}시간이고, 화자 수는 각각 "
        "{train_speakers}명, {valid_speakers}명, {test_speakers}명이다.",
    ),
    Say(
        "No two parts share a speaker or a sentence, which was counted in the finished parts.",
        "세 세트 간에 중복되는 화자와 문장이 없으며(speaker- and sentence-disjoint), 이는 완성된 세트에서 직접 "
        "확인하였다.",
        ("disjoint",),
    ),
    Say(
        "The parts share {shared_speakers} speakers and {shared_sentences} sentences, so the figures do not measure "
        "performance on new speakers or new sentences.",
        "세트 간에 화자 {shared_speakers}명과 문장 {shared_sentences}개가 중복되므로, 결과는 새로운 화자나 새로운 "
        "문장에 "
        "대한 성능을 나타내지 않는다.",
        ("leak_both",),
    ),
    Say(
        "The parts share {shared_speakers} speakers but no sentence, so the figures do not measure performance on new "
        "speakers.",
        "세트 간에 중복되는 문장은 없으나 화자 {shared_speakers}명이 중복되므로, 결과는 새로운 화자에 대한 성능을 "
        "나타내지 "
        "않는다.",
        ("leak_speakers",),
    ),
    Say(
        "The parts share {shared_sentences} sentences but no speaker, so the figures do not measure performance on new "
        "sentences.",
        "세트 간에 중복되는 화자는 없으나 문장 {shared_sentences}개가 중복되므로, 결과는 새로운 문장에 대한 성능을 "
        "나타내지 "
        "않는다.",
        ("leak_sentences",),
    ),
    Say("The split was stratified by {strata}.", "분할 시 다음 변수로 층화하였다: {strata}."),
    Say(
        "The largest deviation of a group's share from the corpus was {deviation} percentage points.",
        "집단별 비율이 전체 말뭉치와 가장 크게 벗어난 정도는 {deviation}%p이다.",
    ),
    Say("Its random seed was {split_seed}.", "분할의 난수 시드는 {split_seed}이다."),
    Say(
        "The number of usable utterances in no part was {discarded}.",
        "사용 가능한 발화 중 {discarded}개는 어느 세트에도 넣지 않았다.",
    ),
    Say("The SHA-256 of the split begins with {split_sha256}.", "분할의 SHA-256 앞자리는 다음과 같다: {split_sha256}."),
)
TRAINING = (
    Say(
        "Whisper models of these sizes (parameters) were fine-tuned: {sizes}.",
        "다음 크기(매개변수 수)의 Whisper 모델을 미세 조정(fine-tuning)하였다: {sizes}.",
    ),
    Say(
        "The SHA-256 of the initial weights begins with: {weights}.",
        "초기 가중치의 SHA-256 앞자리는 다음과 같다: {weights}.",
    ),
    Say(
        "AdamW minimized the cross-entropy with a learning rate of {lr} and batches of {batch_size} utterances for "
        "{epochs} epochs.",
        "손실 함수는 교차 엔트로피, 최적화 알고리즘은 AdamW, 학습률은 {lr}, 배치 크기는 {batch_size}, 에폭 수는 "
        "{epochs}이다.",
    ),
    Say("The schedule of the learning rate was {schedule}.", "학습률 스케줄은 다음과 같다: {schedule}."),
    Say(
        "The learning rate rose linearly over the first {warmup_steps} steps.",
        "처음 {warmup_steps}스텝 동안 학습률을 선형으로 증가시켰다.",
    ),
    Say("Weight decay was {weight_decay}.", "가중치 감쇠(weight decay) 계수는 {weight_decay}이다."),
    Say("Gradients were clipped to a norm of {grad_clip}.", "기울기 노름의 상한(gradient clipping)은 {grad_clip}이다."),
    Say(
        "Labels of more than {max_len} tokens had no part in the loss.",
        "{max_len}토큰을 초과하는 라벨은 손실 계산에서 제외하였다.",
    ),
    Say(
        "Training stopped after {patience} epochs without a lower validation CER.",
        "검증 CER이 {patience}에폭 동안 낮아지지 않으면 학습을 조기 종료하였다.",
    ),
    Say("The encoder was frozen.", "인코더는 고정(freeze)하였다.", ("frozen_encoder",)),
    Say("Low-rank adapters (LoRA) had rank {lora_rank}.", "저랭크 어댑터(LoRA)의 랭크는 {lora_rank}이다."),
    Say("SpecAugment was applied.", "데이터 증강으로 SpecAugment를 적용하였다.", ("spec_augment",)),
    Say(
        "Speeds were drawn from these factors: {speed_factors}.",
        "데이터 증강으로 다음 배속 중 하나를 무작위로 적용하였다: {speed_factors}.",
    ),
    Say(
        "In training, every clip stood in Whisper's 30 s window.",
        "학습 시 모든 음성은 Whisper의 30초 입력 구간에 맞추었다.",
        ("train_full",),
    ),
    Say(
        "In training, the audio context had the length of the batch, with a few positions that represent the silence "
        "of Whisper's 30 s window.",
        "학습 시 오디오 문맥은 배치의 길이로 하고, Whisper의 30초 입력 구간 중 무음 부분은 소수의 위치로 대신하였다.",
        ("train_dynamic",),
    ),
    Say("The arithmetic precision of training was {precision}.", "학습의 연산 정밀도는 {precision}이다."),
    Say("One training per size was run, with seed {seed}.", "크기별로 한 번씩 학습하였다(시드 {seed})."),
    Say(
        "{n_seeds} trainings per size were run, with seeds {seeds}.",
        "크기별로 시드를 달리하여 {n_seeds}회씩 학습하였다(시드 {seeds}).",
    ),
    Say("The settings came from the hyperparameter study {study}.", "설정값은 하이퍼파라미터 탐색 {study}의 결과이다."),
    Say(
        "For each size, the epoch, and with several seeds the training, with the lowest CER of decoded validation "
        "transcripts was selected; the test part was not used for this selection.",
        "검증 세트를 디코딩한 결과의 CER이 가장 낮은 에폭(시드가 여럿이면 그 학습)을 선택하였으며, 이 선택에 평가 "
        "세트는 "
        "사용하지 않았다.",
        ("sizes",),
    ),
)
DECODING = (
    Say(
        "Transcripts were decoded greedily, without timestamps.",
        "전사는 타임스탬프 없이 탐욕적 디코딩(greedy decoding)으로 얻었다.",
        ("greedy",),
    ),
    Say(
        "Transcripts were decoded without timestamps by beam search with {beams} beams.",
        "전사는 타임스탬프 없이 빔 서치(beam search, 빔 크기 {beams})로 얻었다.",
    ),
    Say("A transcript had at most {max_new_tokens} tokens.", "전사의 최대 길이는 {max_new_tokens}토큰으로 제한하였다."),
    Say(
        "No sequence of {ngram} tokens could occur twice in a transcript.",
        "한 전사 안에서 {ngram}토큰의 열이 반복되지 않도록 하였다.",
    ),
    Say(
        "In decoding, every clip stood in Whisper's 30 s window.",
        "디코딩 시 모든 음성은 Whisper의 30초 입력 구간에 맞추었다.",
        ("eval_full",),
    ),
    Say(
        "In decoding, the audio context had the length of the batch, with a few positions that represent silence.",
        "디코딩 시 오디오 문맥은 배치의 길이로 하고, 무음 부분은 소수의 위치로 대신하였다.",
        ("eval_dynamic",),
    ),
)
SCORING = (
    Say(
        "The character error rate (CER) is the number of substituted, deleted and inserted characters, summed over all "
        "clips, over the number of reference characters, after normalization and without spaces and punctuation.",
        "문자 오류율(character error rate, CER)은 정규화 후 공백과 문장 부호를 제거한 텍스트에서, 전체 발화의 "
        "대치·삭제·삽입 "
        "문자 수의 합을 정답 문자 수의 합으로 나눈 값이다.",
        ("scored",),
    ),
    Say(
        "The word error rate (WER) counts words between spaces (eojeol).",
        "단어 오류율(word error rate, WER)은 띄어쓰기 단위(어절)로 계산하였다.",
        ("scored",),
    ),
    Say(
        "References and hypotheses were normalized by version {normaliser} of kmed-bench's rules.",
        "정답과 인식 결과는 모두 kmed-bench의 정규화 규칙(버전 {normaliser})을 적용하였다.",
    ),
    Say(
        "Of the dual transcription the {policy} side was the reference.",
        "이중 전사 중 다음을 정답으로 삼았다: {policy}.",
    ),
    Say(
        "The number of test clips left out for lack of a reference to score was {unscored}.",
        "채점할 정답이 없는 평가 발화 {unscored}개는 제외하였다.",
    ),
)
STATISTICS = (
    Say(
        "{level}% confidence intervals are based on Student's t distribution, with the variance between speakers and "
        "between sentences; those of rates are computed on the logarithmic scale. For {few_events} errors or fewer "
        "they are "
        "Clopper-Pearson intervals with an effective sample size; repetition loops that make up much of a sum have "
        "gamma "
        "limits.",
        "{level}% 신뢰구간은 화자 간 분산과 문장 간 분산을 함께 반영한 스튜던트 t 분포로 구하였고, 비율의 구간은 "
        "로그 척도에서 "
        "계산하였다. 오류가 {few_events}개 이하이면 유효 표본 크기를 적용한 Clopper-Pearson 구간을, 합계에서 큰 몫을 "
        "차지하는 "
        "반복 출력에는 감마 분포에 의한 한계를 사용하였다.",
    ),
    Say(
        "No interval is given for fewer than {min_speakers} speakers.",
        "화자가 {min_speakers}명 미만이면 신뢰구간을 제시하지 않았다.",
    ),
    Say(
        "The {level}% confidence intervals were computed by this method: {interval_method}.",
        "{level}% 신뢰구간은 다음 방법으로 구하였다: {interval_method}.",
    ),
    Say(
        "Differences between models are paired by clip; p is the larger of that of a two-sided permutation test that "
        "flips the signs of whole speakers (all patterns for up to 12 speakers, else {draws} random ones) and that of "
        "the interval's own test.",
        "모델 간 차이는 발화별로 짝지어 비교하였다. p값은 화자 단위로 부호를 바꾸는 양측 순열 검정(화자 12명 이하는 "
        "모든 경우, "
        "초과하면 무작위 {draws}회)과 신뢰구간에 대응하는 검정의 p값 중 큰 값이다.",
    ),
    Say("Differences between models were tested by: {test}.", "모델 간 차이의 검정 방법은 다음과 같다: {test}."),
    Say(
        "Corrected p-values are by Holm's method; the number of comparisons of models was {n_comparisons}.",
        "보정된 p값은 모델 간 비교 {n_comparisons}건에 대하여 Holm 방법으로 보정한 값이다.",
    ),
    Say(
        "Gaps between a group of speakers and the other speakers were tested with Student's t distribution and Welch's "
        "degrees of freedom, and corrected by Holm's method over all tested gaps, whose number was {n_gaps}.",
        "화자 집단과 나머지 화자의 차이는 Welch의 자유도를 적용한 스튜던트 t 분포로 검정하였고, p값은 검정한 차이 "
        "{n_gaps}건에 "
        "대하여 Holm 방법으로 보정하였다.",
    ),
    Say(
        "A difference counts as shown if its interval excludes 0 and p is below {alpha}.",
        "신뢰구간이 0을 포함하지 않고 p값이 {alpha} 미만일 때 차이가 있다고 판정하였다.",
    ),
    ROUNDING,
)
SOURCE = (
    Say("Hardware: {machine}.", "하드웨어: {machine}."),
    Say("Software: {software}.", "소프트웨어: {software}."),
    Say("Code: kmed-bench {code_version}.", "코드: kmed-bench {code_version}."),
    Say(
        "The test part was opened {openings} times in all, {tuned_openings} of them by a model after training; the "
        "number "
        "of sealed plans was {plans}.",
        "평가 세트는 모두 {openings}회 사용되었고 그중 학습된 모델에 의한 것이 {tuned_openings}회이며, 사전에 봉인한 "
        "계획의 수는 "
        "{plans}개이다.",
    ),
    Say(
        "The SHA-256 of the plan that was sealed before training begins with {plan_sha256}.",
        "학습 전에 봉인한 계획의 SHA-256 앞자리는 다음과 같다: {plan_sha256}.",
    ),
)
SECTIONS = {
    Say("Data", "데이터"): DATA,
    Say("Split", "데이터 분할"): SPLIT,
    Say("Training", "학습"): TRAINING,
    Say("Decoding", "디코딩"): DECODING,
    Say("Evaluation", "평가 지표"): SCORING,
    Say("Statistics", "통계 분석"): STATISTICS,
    Say("Reproducibility", "재현성"): SOURCE,
}


def methods(facts: Facts, language: Language) -> dict[str, str]:
    """Return the methods as paragraphs by heading; what the record does not say is left out by sentence."""
    told = {head.words(language): tell(sentences, facts, language) for head, sentences in SECTIONS.items()}
    return {head: text for head, text in told.items() if text}
